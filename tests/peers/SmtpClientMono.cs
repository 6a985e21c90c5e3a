// Sends one message with Mono's System.Net.Mail.SmtpClient after STARTTLS, trusting any certificate.
// Arguments: host, port, from, to, subject, body. Prints "sent", or the exception, and whether TLS was used.
using System;
using System.Net;
using System.Net.Mail;

class SmtpClientMono
{
    static int Main(string[] a)
    {
        bool asked = false;
        ServicePointManager.ServerCertificateValidationCallback = (sender, certificate, chain, errors) => asked = true;
        // Left to itself it offers TLS 1.0 alone.
        ServicePointManager.SecurityProtocol = SecurityProtocolType.Tls12;
        var client = new SmtpClient(a[0], int.Parse(a[1])) { EnableSsl = true, Timeout = 60000 };
        try
        {
            client.Send(new MailMessage(a[2], a[3], a[4], a[5]));
        }
        catch (Exception e)
        {
            Console.Error.WriteLine(e);
            return 1;
        }
        Console.WriteLine(asked ? "sent over TLS" : "sent in the clear");
        return 0;
    }
}
