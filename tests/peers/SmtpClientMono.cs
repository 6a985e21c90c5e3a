// Sends one message with Mono's System.Net.Mail.SmtpClient.
// Arguments: host, port, from, to, subject, body; "tls" for STARTTLS or "clear"; user and password. Prints "sent", or
// the exception.
using System;
using System.Net;
using System.Net.Mail;

class SmtpClientMono
{
    static int Main(string[] a)
    {
        ServicePointManager.ServerCertificateValidationCallback = (sender, certificate, chain, errors) => true;
        var client = new SmtpClient(a[0], int.Parse(a[1])) { EnableSsl = a.Length > 6 && a[6] == "tls", Timeout = 60000 };
        if (a.Length > 8)
            client.Credentials = new NetworkCredential(a[7], a[8]);
        try
        {
            client.Send(new MailMessage(a[2], a[3], a[4], a[5]));
        }
        catch (Exception e)
        {
            Console.Error.WriteLine(e);
            return 1;
        }
        Console.WriteLine("sent");
        return 0;
    }
}
